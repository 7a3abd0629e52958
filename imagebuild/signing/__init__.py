"""Keys for images, and what is signed with them."""
