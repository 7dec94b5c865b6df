"""Names of public resolvers that answer over HTTPS (RFC 8484): their clients' DNS is not seen."""

from __future__ import annotations

PUBLIC_RESOLVERS = frozenset({
    # As their operators document them, and Chromium, Firefox, Windows and Apple systems have them built in.
    "dns.google", "dns.google.com", "dns64.dns.google",
    "cloudflare-dns.com", "one.one.one.one", "1dot1dot1dot1.cloudflare-dns.com",
    "chrome.cloudflare-dns.com", "mozilla.cloudflare-dns.com", "security.cloudflare-dns.com",
    "family.cloudflare-dns.com", "dns64.cloudflare-dns.com",
    "dns.quad9.net", "dns9.quad9.net", "dns10.quad9.net", "dns11.quad9.net", "dns12.quad9.net",
    "doh.opendns.com", "doh.familyshield.opendns.com", "doh.umbrella.com", "dns.umbrella.com",
    "dns.adguard-dns.com", "dns.adguard.com", "family.adguard-dns.com", "unfiltered.adguard-dns.com",
    "dns.nextdns.io", "firefox.dns.nextdns.io", "chromium.dns.nextdns.io", "anycast.dns.nextdns.io",
    "doh.cleanbrowsing.org", "doh.xfinity.com", "doh.cox.net", "dns.sb", "doh.dns.sb",
    "freedns.controld.com", "dns.controld.com", "private.canadianshield.cira.ca", "doh.dns.apple.com",
    "dns.mullvad.net", "doh.mullvad.net", "dns0.eu", "public.dns.iij.jp", "dns.alidns.com", "doh.pub", "dns.pub",
    "odvr.nic.cz", "dns.switch.ch", "wikimedia-dns.org", "doh.libredns.gr", "doh.ffmuc.net",
})  # fmt: skip
"""In lower case, without a final dot."""
