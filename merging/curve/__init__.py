"""Curves of low loss between networks, and what lies along them."""
