"""What the shop knows of an order. How far it has come is in its execution, ``order-<number>``."""

from django.db import models


class Order(models.Model):
    customer = models.CharField(max_length=100)
    parcels = models.PositiveSmallIntegerField(default=1)
    status = models.CharField(max_length=20, default="new")
    placed_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"order {self.pk} of {self.customer}"
