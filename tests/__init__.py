"""Tests of Sommelier; the folders mirror the rooms of the package."""
