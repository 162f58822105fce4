"""Images from anywhere: pictures, archives, arrays, tables, and data sets by name."""
