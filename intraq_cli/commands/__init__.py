"""The commands: they parse, call one function of the API, and print its result."""
