"""Implicit graph networks, and graph convolutions."""
