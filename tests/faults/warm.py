"""Imported once by the process from which jobs are forked: all that would take them seconds."""

from biva.vision import torchvision_utils

torchvision_utils()
