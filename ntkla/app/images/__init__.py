"""Images in folders and archives, and a backbone that makes features of them."""
