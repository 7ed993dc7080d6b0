"""Runtime: loads artifacts; imports neither TVM nor the compiler."""
