"""Errors, digests, the store, manifests and streamed tensors: the floor that everything else stands on."""
