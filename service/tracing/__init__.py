"""How is one deployment followed from its webhook to its record, where somebody collects traces?"""
