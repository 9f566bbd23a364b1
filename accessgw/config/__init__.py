"""The configuration file: load, validate, compare, print."""

from accessgw.config.diff import Difference, applicable, diff
from accessgw.config.errors import ConfigError, Problem
from accessgw.config.load import load, loads
from accessgw.config.render import render, to_dict

__all__ = ["ConfigError", "Difference", "Problem", "applicable", "diff", "load", "loads", "render", "to_dict"]
