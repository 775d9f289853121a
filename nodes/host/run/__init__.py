"""A sampling run with RLG, from the record on a MODEL to the prediction of each step."""
