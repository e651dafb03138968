"""The calibration walk: text through a network block by block, every linear map's input shown on the way."""
