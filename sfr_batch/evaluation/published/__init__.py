"""Published scores, from model cards and result files of mteb, and our scores beside them."""
