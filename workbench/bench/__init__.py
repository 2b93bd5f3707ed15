"""Figures of the workbench on this machine: how soon it shows what happens, and how soon it answers."""
