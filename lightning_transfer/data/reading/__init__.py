"""How files become data sets: which files make a split, tables, and class folders."""
