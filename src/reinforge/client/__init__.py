"""Asking a server: rows, observations and chats, from a program that needs neither torch nor a bundle."""
