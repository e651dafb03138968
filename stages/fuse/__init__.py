"""Stages that fold something into a network's weights and leave its function as it was."""
