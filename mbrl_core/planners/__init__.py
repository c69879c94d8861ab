"""The planners, each written once for tensors and text."""
