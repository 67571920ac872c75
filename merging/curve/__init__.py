"""Curves of low loss between networks, with loss and accuracy along them."""
