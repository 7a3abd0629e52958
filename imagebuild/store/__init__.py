"""The store of images, where builder and server meet: images, manifests, what is in use."""
