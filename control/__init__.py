"""Learned world models for control, and the environments they are learned in."""
