"""Code that verbs share: the stages in their order, their inputs, and what is written about them."""
