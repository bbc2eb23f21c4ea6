"""What users of other libraries would write otherwise. Each part is imported by its own name, and needs its library."""
