"""The verbs as functions, one file each; the commands of the same names call these and print what they return."""
