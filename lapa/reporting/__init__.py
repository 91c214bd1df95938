"""The report card: may these latents be trusted?"""
