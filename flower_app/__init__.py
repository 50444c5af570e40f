"""The federation on Flower's present engine: an app of two thin halves over the installed packages.

Flower packs this folder and nothing else, and ships it to each tenant's node. So it holds nothing that a tenant's
privacy rests on: there the app hands bytes to the tenant's own agent, and here to the orchestrator that is installed.
"""
