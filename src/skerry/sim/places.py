"""Where simulated hosts stand: harbour towns with their true position and time zone.

After the last town the names start again with a number, so that any count of sites has names that
differ and never change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Harbour:
    """A site. `name` is a DNS label, `latitude` and `longitude` are degrees."""

    name: str
    town: str
    country: str
    coast: str
    latitude: float
    longitude: float
    time_zone: str

    @property
    def labels(self) -> dict[str, str]:
        """Labels that a site and its hosts carry."""
        return {"country": self.country, "coast": self.coast}


def harbours(count: int) -> tuple[Harbour, ...]:
    """The first `count` sites."""
    found: list[Harbour] = []
    for index in range(count):
        around, place = divmod(index, len(_TOWNS))
        town = _TOWNS[place]
        found.append(replace(town, name=f"{town.name}-{around + 1}") if around else town)
    return tuple(found)


def _town(
    town: str, country: str, coast: str, position: tuple[float, float], time_zone: str
) -> Harbour:
    name = town.lower().replace(" ", "-")
    for accented, plain in (("ö", "o"), ("ø", "o"), ("é", "e"), ("ń", "n"), ("å", "a")):
        name = name.replace(accented, plain)
    return Harbour(
        name=name,
        town=town,
        country=country,
        coast=coast,
        latitude=position[0],
        longitude=position[1],
        time_zone=f"Europe/{time_zone}",
    )


_TOWNS = (
    _town("Rotterdam", "nl", "north-sea", (51.92, 4.48), "Amsterdam"),
    _town("Hamburg", "de", "north-sea", (53.54, 9.98), "Berlin"),
    _town("Antwerp", "be", "north-sea", (51.26, 4.40), "Brussels"),
    _town("Bremerhaven", "de", "north-sea", (53.54, 8.58), "Berlin"),
    _town("Aarhus", "dk", "baltic", (56.15, 10.22), "Copenhagen"),
    _town("Göteborg", "se", "north-sea", (57.70, 11.95), "Stockholm"),
    _town("Bergen", "no", "north-sea", (60.39, 5.32), "Oslo"),
    _town("Gdynia", "pl", "baltic", (54.53, 18.55), "Warsaw"),
    _town("Riga", "lv", "baltic", (57.01, 24.10), "Riga"),
    _town("Turku", "fi", "baltic", (60.44, 22.24), "Helsinki"),
    _town("Leith", "gb", "north-sea", (55.98, -3.17), "London"),
    _town("Felixstowe", "gb", "north-sea", (51.96, 1.35), "London"),
    _town("Cork", "ie", "atlantic", (51.85, -8.30), "Dublin"),
    _town("Le Havre", "fr", "atlantic", (49.48, 0.11), "Paris"),
    _town("Bilbao", "es", "atlantic", (43.34, -3.04), "Madrid"),
    _town("Leixoes", "pt", "atlantic", (41.18, -8.70), "Lisbon"),
    _town("Valencia", "es", "mediterranean", (39.45, -0.32), "Madrid"),
    _town("Marseille", "fr", "mediterranean", (43.33, 5.35), "Paris"),
    _town("Genoa", "it", "mediterranean", (44.41, 8.92), "Rome"),
    _town("Piraeus", "gr", "mediterranean", (37.94, 23.62), "Athens"),
    _town("Trieste", "it", "mediterranean", (45.65, 13.75), "Rome"),
    _town("Rijeka", "hr", "mediterranean", (45.33, 14.43), "Zagreb"),
    _town("Kiel", "de", "baltic", (54.32, 10.14), "Berlin"),
    _town("Esbjerg", "dk", "north-sea", (55.47, 8.43), "Copenhagen"),
    _town("Stavanger", "no", "north-sea", (58.98, 5.73), "Oslo"),
    _town("Malmö", "se", "baltic", (55.62, 13.00), "Stockholm"),
    _town("Tallinn", "ee", "baltic", (59.45, 24.76), "Tallinn"),
    _town("Klaipeda", "lt", "baltic", (55.70, 21.13), "Vilnius"),
    _town("Hull", "gb", "north-sea", (53.74, -0.29), "London"),
    _town("Southampton", "gb", "atlantic", (50.90, -1.43), "London"),
    _town("Brest", "fr", "atlantic", (48.38, -4.47), "Paris"),
    _town("Vigo", "es", "atlantic", (42.24, -8.73), "Madrid"),
    _town("Cadiz", "es", "atlantic", (36.54, -6.28), "Madrid"),
    _town("Barcelona", "es", "mediterranean", (41.35, 2.16), "Madrid"),
    _town("Livorno", "it", "mediterranean", (43.55, 10.30), "Rome"),
    _town("Naples", "it", "mediterranean", (40.84, 14.27), "Rome"),
    _town("Split", "hr", "mediterranean", (43.50, 16.44), "Zagreb"),
    _town("Valletta", "mt", "mediterranean", (35.90, 14.51), "Malta"),
    _town("Thessaloniki", "gr", "mediterranean", (40.64, 22.91), "Athens"),
    _town("Constanta", "ro", "black-sea", (44.17, 28.66), "Bucharest"),
)
