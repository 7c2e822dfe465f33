"""Entry points that kopf calls for the custom resources; shells that tell the store and ask for a look."""
