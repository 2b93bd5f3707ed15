"""What the workbench knows: frames and values, computed from files, without a word about pages."""
