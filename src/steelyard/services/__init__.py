"""What can be bought: a door for kinds of work (`port`), the way they are found (`discovery`), and a folder per
kind.
"""
