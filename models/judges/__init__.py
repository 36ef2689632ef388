"""Networks that metrics judge by, each with its own front end, and the extractors of features made of them."""
