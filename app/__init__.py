"""Fovea: image classification as a service, from a labelled folder to a live, versioned model."""

__version__ = "0.1.0"
