"""The public functions, one file for each verb; the commands of the same names call them and print their results."""
