"""Atari games on ale-py."""

from .env import Atari

__all__ = ["Atari"]
