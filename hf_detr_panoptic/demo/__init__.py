"""The whole road offline: synthetic site photos with their full truth, and a small teacher that labels them."""
