"""What is measured of clients' round trips, as it is sent: by agents where connections end, and by pages in browsers.

Lives here: the bodies. Does not live here: what is believed of them (`dnsd.rtt`), who may send them (`admin`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from dnsd.registry.fields import Id, Model

SAMPLES: Final = 5000
"""Most samples in one batch."""

Milliseconds = Annotated[float, Field(allow_inf_nan=False, strict=True)]  # true is no millisecond


class RoundTrip(Model):
    """One client and one site. Outside 0.05 to 5000 ms it is dropped, as is one that is faster than light."""

    client: str = Field(default="", max_length=50, description="an address, or a prefix within one /24 or /48")
    rtt_ms: Milliseconds = Field(description="the round trip, or the median of `count`")
    count: int = Field(default=1, ge=1, le=65_535, description="how many round trips this is the median of")
    spread_ms: Milliseconds | None = Field(default=None, ge=0, description="their standard deviation")
    site: str | None = Field(default=None, max_length=64, description="where it is not the batch's")


class MeasurementBatch(Model):
    """Round trips of clients. `site` is that of the samples that name none."""

    site: Id | None = None
    source: Literal["agent", "beacon"] = "agent"
    samples: tuple[RoundTrip, ...] = Field(min_length=1, max_length=SAMPLES)
