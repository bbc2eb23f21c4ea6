"""Where the views of the shop are."""

from django.urls import path
from orders import views

urlpatterns = [
    path("orders", views.place),
    path("orders/<int:number>", views.order, name="order"),
    path("orders/<int:number>/events", views.events),
    path("payments", views.pay),
]
