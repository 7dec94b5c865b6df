"""Flow to service: rules over names and prefixes, and what DNS answers and handshakes taught."""

from trafficrefinery.names import Status
from trafficrefinery.servicemap.addresses import (
    ANY_CLIENT,
    AddressTable,
    AddressTableCounters,
    AddressTables,
    lookup_address,
)
from trafficrefinery.servicemap.flownames import FlowNames, FlowNamesCounters, Told
from trafficrefinery.servicemap.learning import NO_NAME, LearnedAnswer, ServiceMap, ServiceMapCounters
from trafficrefinery.servicemap.matching import NO_SERVICE, NameMatcher, ServiceFilter
from trafficrefinery.servicemap.prefixes import Prefix, PrefixTable, PrefixTables, lookup_prefix

__all__ = [
    "ANY_CLIENT",
    "NO_NAME",
    "NO_SERVICE",
    "AddressTable",
    "AddressTableCounters",
    "AddressTables",
    "FlowNames",
    "FlowNamesCounters",
    "LearnedAnswer",
    "NameMatcher",
    "Prefix",
    "PrefixTable",
    "PrefixTables",
    "ServiceFilter",
    "ServiceMap",
    "ServiceMapCounters",
    "Status",
    "Told",
    "lookup_address",
    "lookup_prefix",
]
