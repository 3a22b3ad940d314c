"""The shop: which product that a customer looks at is bought before the session ends?"""
