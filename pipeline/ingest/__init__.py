"""Loading: a file is submitted, planned, and its rows become records (the rules are in `rows`)."""
