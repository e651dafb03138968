"""A third party's package with one of each: a stage, a metric and a target, found by entry points."""

from pathlib import Path

TARGET = Path(__file__).with_name("shop-till.yaml")
