"""Transforms that complete what Kompose began: each accounts for some keys of Compose. Their order is in `order`."""
