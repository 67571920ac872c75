"""Jobs side by side: processes that are forked from one that has imported torch, and what is done with them."""
