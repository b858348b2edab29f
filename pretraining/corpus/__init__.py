"""Files and hub data sets to documents."""
