"""Objectives: what a trial trains, and the parts they are made of. Each name is imported from its module."""
