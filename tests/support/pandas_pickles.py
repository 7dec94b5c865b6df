"""Pickles that pandas 1.5.3, 2.2.3 and 3.1.1 wrote of one frame by default, compressed.

    DataFrame({"resolution": ["720p", "hd720", None], "n_chunks_up": [1, 2, 3], "a": [1.5, 2, 3],
               "c": Categorical(["x", "y", None]), "I": array([1, None, 3], "Int64"),
               "b": array([True, None, False], "boolean"), "F": array([1.5, None, 2.0], "Float64"),
               "s": array(["x", None, "y"], "string"), "d": a date, "dz": a date in UTC, "l": [[1.0, 2], [3], []]},
              index=Index(["u", "v", "w"], name="session_id"))

That of pandas 2 and 3 has a column "sa" of text in pyarrow as well.
"""

from __future__ import annotations

import base64
import lzma

_PACKED = {
    "1.5.3": (
        r"T>t=p0RR90|NsC0{{TP%PH%C9?x8SQjGpI%Wi8~5?)b2`K$;FCxaQ1ICf&C})4+f^k&myAlv|0rw<w?0p429}W@%Lz&l8Ci5|Mche#3D"
        r"zx)$Ga+tyb;4^^FWTffb3tX1sm%5e2Jv_QRVqBm$O1bcj^AI<&i%UHWCxs`?>8BiXs$lKSRFO>WZTGrntF^A4GjH6{{S!f$>*=FrQls$"
        r"2uGq8MQcdY%X_bA)x2yW_>WaSh!g4sCF#gD$s3JH}7CR87InsoBEsqe0Yy!waFlA5cc|1e5U8sn@MH;9<D(;_%jVlYV*BxYw%@7Pra&("
        r"P2YvH4c88R-r$wo0w<pVsZ+RY-lRfv{haZ&+|YOfiSS%HJE-Lrd+)$kV}BmSAXSj-a;Uv`C+&mCW9V!o;^?N_G771{RvtNg1EG{3N2by"
        r"1c(mm~a2MzZ*9HAMNY`{h^h?3JnDcB*Y^-fIe))UQBKLLR#?}F1cVMwW`4<4T)ZGw*;JuN?jB5yR_i%L+7Js(WotfImcCT8Zjh^^DXj<"
        r"u^$;*o+LIi&D`f}x&<0aLWz#=Wf|Rek(C$@$bc}v7*cB$!H4NZ0zL-RN#n|yPQ3q<=nyvzcX&Dby33HEiywox4&W@W(r3|4AW%3%7+of"
        r"?bQU^<zJ`vq+wVE+7j)RKg|UnU?bpc58c2jyM8np@V=UzQ+2cBh|8nUBi}qE*J|E^^0FJa7(D~)Bel82_8<+o7Vd(_GAOZ$Nt0D)ufDg"
        r"zM@dje8E;D<06aTRP{45eOp{B0+Kt*{_%wR4bzkz{FglG??3X0U#p<(0s)M$g`7#4)ez_9d*E^)ZH*g+p_pzp11YA!5#bl964S6nq9<O"
        r"o(MV2IW)j>=?IiMjjgd|w5>mTQF119m1_GK4>RAxDt=FN?V$%spOQ(Pgtmbi#&*gY+3uA>k9c<V&NB{g4LXbf+U&GjP-&P|hVnAv!i%z"
        r"Y5;w59^jyr!YsNHbrUOnbKdSHnJ<ZEcwQc3fQ9{zE;}=!Z$Oj`$BWW#X%2VMb(6|UD0d!A;Dg{${*r}NaXx_)Nz2>W~U!kNCAOR@LJky"
        r"5s9woQ}V+b(xETs0#8PfY8>xSOuOkRy<_symaDI;Y%FA7L3x#-@U!Xl*tgD7j;^rymO)D2pQw~LAsrMtSQIsX{gU-vY?k5HobMP_e4fZ"
        r"^yw-P+f7f;#_B}87pD*e-D4~T`<FG=ooJ-*@33LIDcXPs}WydImA>)BR?jLzMV^?f?hP5V(VzvxAuSv+ekAyxR=BccdLp=C@aDPHE(tr"
        r"DmEuLYF&)g+$^enq;Gz_G7Se*PIra@utNCzX2QfVh<@!&nCh<p-8lX#A%@~p1?Hmt0KgR>7YPN#!X7hMX)8AKgfS~F91TGQ(tsQ>fhF5"
        r"*S4wPD8ib%c7ycEMX@$SiR&QvCB0=a|?VU;%jlA@E`V"
    ),
    "2.2.3": (
        r"T>t=p0RR90|NsC0{{TP%PI90hF+}p8+x@WV>+83`Z!(F-g3EhBZ8Z>A9)c_HZ-%ARx?5sLbrxrbHj6f-f#&*Q<56Q(Q@g9$5HdrHJusR"
        r"L#fUvNm6pnMBsXoyvY$=A$0ceGv|GVAJ1nvKN*DFRNGYVlGKX-jp9fOz>^2Wk<QeJj@5P8~k*saY?AsncJheiuf>Q#^GEV9;cMEHCfH3"
        r"bD*m~b3))64?m=g98cac_C-Z>_!i~#)BQYoK+2C6bW-T^)_{Tj=Nc`TIztiAtr(GdE2BWC<savuJ5N4VZ_(;iOeRi0OxN>Z;yPtY5s*j"
        r"5xR<bAsF7tof1$MtjKv)HcZTaMp9ChUbxi4&jW3oSz_7TOj<henu8DIy!m<c=(>H~Gmjx3N@V`!Rse2b)&@#fXw3f_jd?g+b#&l{Ia5U"
        r"L|t3l;ocF;6`Ox-UV{o8_L|{HgI1CEd((g9-KtRc)6Yh*>NfkIYFzf8@Eb_6$3WWY`L@GRDT~_`M^UaQf@CMMN!NmU`d^u35uLFkXY=6"
        r"#|%-vk)uDq74iNT@w?OM2Xq?CFGn2N`t7~_^$^PmC|D^zT(oi0Pg|;E=s4hI&OC1m@I^Zr7~C0!A<pMu&hNe^DQ1?znF&8ddTQv9vX&`"
        r"Qp{bFI$Z<ngm^UNk#d5w)7)Pz`V2-C2DAZ1@Pu~wFGS=Pki$&1zucxc_!F|GWBl^q16&8dou^7+eAm%gd^=L7o9hs)B*tx@&UzD?Q07^"
        r"3fjOb%$aq;e!r<WM2httjh1$|ExOlG{T!NY0rQQAd9rsC`2;k7z33YL=uUB>bTU;2)4A^l8LOlIf}9Q|SNJmo`sI+%|ub-bXj_b~u%`-"
        r"KrhXtl`KPo}DB4X*rkm0q`B>tb%uxcp>P^Z*33Tp@VV5sk)KK_)}q<eG*uRpW4GZUo-c>I-FOFeD_EhP{Cb;0I|L0LBz^d$}-W5k6uMA"
        r"wK)8se4rw5`fSrBDYdgbk~_VnU3(9l@)0ywJAyd=rmt3Z%i-)Uk9w|!!zBRaI>SXz7gwgzAykGUJtve53Bounhpae@Fr`an)!j|@Ea2v"
        r"LTyx~0taP}%C!@NbHl)cGLGlnwkGDxX$}_oVLYs}<_8q|+osJGcXQqF1?e2-bGZIGwx<~7M+S-GCgDy;r|#pzb+2-#)w`4FRr-;;(--<"
        r"^Kb-uqWU=WTuz%`ddoYdDP;Y@?G^QpR94v#%KZcm5<U(wKTS-o}PRK$8Lv@)-(Q~;@$F>ldScg)L-RBe*2Zcer+z*kc^fx{iM<mY0Gns"
        r"4mPzj}t4n2r}^$8eocH=%t@RZ}u5B@<5v-X_0iK3wpf1X;e=!``+NACE{j_gPEn{Y2UhBR{%_(kec%vz8V6jQ|WsS(-L`Yzja2U8fZqu"
        r"zAGNLa<A@}vQd{R`k3*as1W(ehVJ6*Er(uJwU2AYSNx-h1`NwKp@vpthY~s|!92z0?X&qyuWiQDHuA!xt8GLOTz-*4;x?{^Cqfg3E@Q3"
        r"ry}+;Xx8Z#9%E`+p+@9P4#!jo8U`i3lEd{a%)8Bj-+lj>~)X4lY;$ZqJ?RsLf9j8zNi^DS(_PQdG%$TaI*NekEsvyG?!$Z|K`kKvj"
    ),
    "3.1.1": (
        r"T>t=p0RR90|NsC0{{TP%PJ8?l<!Pl5yMb=?0U^IUVXcT?kwIu>0Z1e$VFI*$<Tg9dp2{VGa$FU1yt6)qse796=<0M!o9jto9%x~KkD(+"
        r"}qn<s%$Sr#pCsV6rXtKulYbwnvYxHmAjdp6<YI*xNErwPO1j*b1j`>nk^1;9y(b2&4<Fy4Ed@db<0rV$F*JOlBq0Dp-p$q<IUOit;(0G"
        r"H6SN`x41$$ku>?CZv(5~$}4fL3Y&QK6%iP2t~4}Pt<8t8?hn-DrtGjMe1SU%3%r=__;VXg_^OU)PJ`e#=DcKDplxv;YNOJ?YY3B)%3jm"
        r"{rp=a)G98tzJu9WfAFDEtwf(DC^Q-l$#VH4wyI$9t>p<Idz0m5jmK*(L!bX71>4OcZrGG$XgE*hjM!BG3I?qD^ABjhorRYYss^U4*mpI"
        r"`?>0W6Sye3sGw1btDtbTa241@pC*bmfL6tZqppg43NwXZf;n#{cVVmL3&X|gZCUHWJ>LmAG89JRpj;yak^&&w9IE3>`SwiS`LRa{Wvwz"
        r"NvMGC=ftvo+c4ziXY}d>S3XFko8Xr$Bn2%g31=!vDEx@VA4JJ+_a7GzP(Mbl{CY^k3Y}5>r|b@0U*|Lsyg`7ArOIX|43&u})|*QQdnX?"
        r"j>U{3BjJp3iY?X_1Ft4WQv`M^G^(?oBesh(`%Seku`EhlIxOtO4Qr#qbzFHJpMjgm2bni_Ax7}!=51}>Vus<Do$NDOYX~>uBv++3FY3V"
        r"UF**~xsfC}!c8!gfd?}aKaWDN}ZlY6gIb+yg2qm%~d@MUl+*SwM|X(^3J<VuX24dXK*FC!{09Yd7tWg4bTS_m`H&Yj9zd}FS)x+W(c(m"
        r"~B}_VwrPnk#fj+90TTivwNWjjw0vyDsg{$3Qr#b|kcpINC))6b4Hg&y+Nz>P?~Re;?;7N76s1$$Op64<f@*T04B+1OR0PsRnA#H9x9oo"
        r"`Ag;Gq>mK0QCO`hE!Ad)5|rnf)TomX7II;<NpE5h^t~^c;I*6>C9k9Ec9}SXH|U3*PEo?PA&gG`KX=b@lNL<`hdR=a3sA75iFuCNKE#5"
        r"Yg13w?+DKm`Sa5Z!>*9BUDUIOmD9e+MuoQdpsFUP7I@VV)FnM2K?SStgswYV``vY0_249#ABcc`;AH?u>Y?C+v}=cxSJwo}ida}t@uJ+"
        r")hC{oL+Rs<(Vb!H%hk~J#guPurl|Zm=&uKX5NlNqFQKsZCqVrSzj_w33&cfL2Z|<!>S18ZB)dCM-Mw2U(+xwbo{M9jPFn8(gfLPL^C6y"
        r"IF0oZaI#T5-&>AcqNf?L8=#0kb!&zmnvv#rS2Gy90)Yr9a@L+!6tKcgDq45!A;`d`+_Kxg^yr&U2Q>(&jX)=W{J{6at9w?QkzCBF$gS0"
        r"FKI=y--yHb78ah9VnHMTU^-j7r>B%;uSpN9bp#{)178@MbeA<dyA#V%vv$sZ3oa9G2okd(kS}=h}fJo>GBCdy`s%OR)#?oV#UDe7Gy6X"
        r"2iZLVPKt$$2oPDTYdsfp%~BJVVCm3J8$#M8xgaShBer(<0W@}$d@cZJ#Q<nmH`+6k6f8j|Ec5a8U"
    ),
}
PICKLES = {version: lzma.decompress(base64.b85decode(text)) for version, text in _PACKED.items()}
