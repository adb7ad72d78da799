"""Your HTTP routes."""

from typing import Annotated

from fastapi import APIRouter, Depends

from .realtime import get_service
from .resources import Service

ServiceDep = Annotated[Service, Depends(get_service)]

router = APIRouter()
