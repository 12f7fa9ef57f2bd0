"""What single chapters measure: clips, clouds of points, modes, and the links of a student's error."""
