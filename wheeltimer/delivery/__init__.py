"""Outgoing HTTP: which attempt may go (``dispatcher``), what it sends (``attempt``), how it gets there
(``transport`` and below). Nothing here changes a task: outcomes are handed back as values.
"""
