"""Model engines: what runs a model, behind one port for those that we step and one for those that sample by
themselves.
"""
