"""Experiments of a course on model-based reinforcement learning, each one command and plot."""
