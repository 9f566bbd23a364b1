"""Makes `twistd accessgw` known; imports nothing until it is chosen."""

from twisted.application.service import ServiceMaker

accessgw = ServiceMaker("accessgw", "accessgw.service", "Access gateway for phones and devices.", "accessgw")
